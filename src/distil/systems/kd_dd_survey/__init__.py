"""Survey of KD and dataset distillation of LLMs (arXiv 2025): see ``distil show kd-dd-survey``."""
