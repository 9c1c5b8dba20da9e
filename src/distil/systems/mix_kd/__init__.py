"""MIX-KD: mixup while distilling, and each sample's deviation in place of a temperature."""

from distil.systems.mix_kd.method import MixKD, published

__all__ = ["MixKD", "published"]
