"""With torchdistill; its configuration is torchdistill_kd.yaml."""

import copy
from pathlib import Path

import torch
from given import data, make_student, make_teacher
from torch.utils.data import TensorDataset
from torchdistill.common.yaml_util import load_yaml_file
from torchdistill.core.distillation import get_distillation_box

train, test = data()
config = load_yaml_file(str(Path(__file__).with_suffix(".yaml")))


def fit(student, teacher, alpha):
    mine = copy.deepcopy(config)
    mine["criterion"]["kwargs"]["sub_terms"]["kd"]["criterion"]["kwargs"]["alpha"] = alpha
    sets = {"train": TensorDataset(*train)}
    box = get_distillation_box(teacher, student, sets, mine, torch.device("cpu"), None, False, 1)
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for inputs, labels, extra in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(inputs, labels, extra)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()
    return student.eval()


def accuracy(model):
    with torch.no_grad():
        return 100 * (model(test[0]).argmax(1) == test[1]).float().mean().item()


teacher = make_teacher()
fit(teacher, make_student(), alpha=1.0)
print("alone", accuracy(fit(make_student(), make_student(), alpha=1.0)))
print("taught", accuracy(fit(make_student(), teacher, alpha=0.1)))
