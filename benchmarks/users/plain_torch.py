"""In plain PyTorch."""

import torch
from given import EPOCHS, data, make_student, make_teacher
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

train, test = data()


def fit(student, teacher=None):
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(EPOCHS):
        student.train()
        for inputs, labels in DataLoader(TensorDataset(*train), batch_size=64, shuffle=True):
            logits = student(inputs)
            loss = F.cross_entropy(logits, labels)
            if teacher is not None:
                with torch.no_grad():
                    target = (teacher(inputs) / 4).log_softmax(-1)
                kl = F.kl_div((logits / 4).log_softmax(-1), target, log_target=True, reduction="batchmean")
                loss = 0.1 * loss + 0.9 * 16 * kl
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return student.eval()


def accuracy(model):
    with torch.no_grad():
        return 100 * (model(test[0]).argmax(1) == test[1]).float().mean().item()


teacher = fit(make_teacher())
print("alone", accuracy(fit(make_student())))
print("taught", accuracy(fit(make_student(), teacher)))
