"""MEAL V2: an already trained student learns the mean of several teachers' probabilities, without labels."""

from distil.systems.meal_v2.method import MealV2, OutputDiscriminator, published

__all__ = ["MealV2", "OutputDiscriminator", "published"]
