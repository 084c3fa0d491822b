"""The second peer of the benchmark `train`: MoCo v2 of the package `lightly`, put together as its documentation does, with
two loader processes. Same encoder, batch, queue and augmentation as our run.

Arguments: folder of images, folder that the package was installed into. Trains two epochs; prints the second's images/s."""

import copy
import json
import sys
import time

images, packages = sys.argv[1:]
sys.path.append(packages)

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.moco_transform import MoCoV2Transform
from torch import nn

BATCH, SIZE, QUEUE, DIM, MOMENTUM, TEMPERATURE = 128, 64, 4096, 128, 0.99, 0.2


class MoCo(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.projection_head = MoCoProjectionHead(512, 512, DIM)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x):
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def forward_momentum(self, x):
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()


def main():
    model = MoCo(nn.Sequential(*list(torchvision.models.resnet18().children())[:-1]))
    dataset = LightlyDataset(images, transform=MoCoV2Transform(input_size=SIZE, min_scale=0.2))
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=2)
    criterion = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, DIM))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06, momentum=0.9, weight_decay=1e-4)
    for _ in range(2):
        began, seen = time.perf_counter(), 0
        for batch in loader:
            query, key = batch[0]
            update_momentum(model.backbone, model.backbone_momentum, m=MOMENTUM)
            update_momentum(model.projection_head, model.projection_head_momentum, m=MOMENTUM)
            loss = criterion(model(query), model.forward_momentum(key))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += len(query)
        rate = seen / (time.perf_counter() - began)
    print(json.dumps({"images_per_s": rate}))


if __name__ == "__main__":
    main()
