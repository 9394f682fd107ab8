"""FID's InceptionV3 as a plain torch module with torchvision's names, for comparison."""

import torch
import torch.nn.functional as F
from torch import nn


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, c_in, c_out, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def average(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    def __init__(self, c, pooled):
        super().__init__()
        self.branch1x1 = Conv(c, 64, 1)
        self.branch5x5_1 = Conv(c, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(c, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(c, pooled, 1)

    def forward(self, x):
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        three = self.branch3x3dbl_3(three)
        pool = self.branch_pool(average(x))
        return torch.cat([self.branch1x1(x), five, three, pool], 1)


class BlockB(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3 = Conv(c, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(c, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x):
        three = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        three = self.branch3x3dbl_3(three)
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    def __init__(self, c, c7):
        super().__init__()
        flat = {"kernel": (1, 7), "padding": (0, 3)}
        tall = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Conv(c, 192, 1)
        self.branch7x7_1 = Conv(c, c7, 1)
        self.branch7x7_2 = Conv(c7, c7, **flat)
        self.branch7x7_3 = Conv(c7, 192, **tall)
        self.branch7x7dbl_1 = Conv(c, c7, 1)
        self.branch7x7dbl_2 = Conv(c7, c7, **tall)
        self.branch7x7dbl_3 = Conv(c7, c7, **flat)
        self.branch7x7dbl_4 = Conv(c7, c7, **tall)
        self.branch7x7dbl_5 = Conv(c7, 192, **flat)
        self.branch_pool = Conv(c, 192, 1)

    def forward(self, x):
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_2(self.branch7x7dbl_1(x))
        double = self.branch7x7dbl_4(self.branch7x7dbl_3(double))
        double = self.branch7x7dbl_5(double)
        pool = self.branch_pool(average(x))
        return torch.cat([self.branch1x1(x), seven, double, pool], 1)


class BlockD(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.branch3x3_1 = Conv(c, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(c, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x):
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    def __init__(self, c, last):
        super().__init__()
        flat = {"kernel": (1, 3), "padding": (0, 1)}
        tall = {"kernel": (3, 1), "padding": (1, 0)}
        self.last = last
        self.branch1x1 = Conv(c, 320, 1)
        self.branch3x3_1 = Conv(c, 384, 1)
        self.branch3x3_2a = Conv(384, 384, **flat)
        self.branch3x3_2b = Conv(384, 384, **tall)
        self.branch3x3dbl_1 = Conv(c, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Conv(384, 384, **flat)
        self.branch3x3dbl_3b = Conv(384, 384, **tall)
        self.branch_pool = Conv(c, 192, 1)

    def forward(self, x):
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = F.max_pool2d(x, 3, 1, 1) if self.last else average(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pool),
            ],
            1,
        )


class TorchInception(nn.Module):
    """Pictures [B, 3, H, W] in [0, 1] -> features [B, 2048]."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, last=False)
        self.Mixed_7c = BlockE(2048, last=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        x = F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        x = self.Conv2d_1a_3x3(2 * x - 1)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x))
        x = self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2))
        x = F.max_pool2d(self.Conv2d_4a_3x3(x), 3, 2)
        for block in "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c".split():
            x = getattr(self, f"Mixed_{block}")(x)
        return x.mean((2, 3))
