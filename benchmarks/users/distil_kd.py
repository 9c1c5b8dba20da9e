"""With distil."""

from given import EPOCHS, data, make_student, make_teacher

import distil
from distil.methods import KD, Supervised

train, test = data()
example, teacher = (train[0][:8], train[1][:8]), make_teacher()
distil.fit(distil.Distiller(teacher, None, Supervised(), example=example), train, epochs=EPOCHS, schedule="constant")
for name, method in (("alone", Supervised()), ("taught", 0.9 * KD(temperature=4) + 0.1 * Supervised())):
    distiller = distil.Distiller(make_student(), teacher, method, example=example)
    result = distil.fit(distiller, train, test=test, epochs=EPOCHS, schedule="constant", check_teacher=False)
    print(name, result.test["last"]["accuracy"])
