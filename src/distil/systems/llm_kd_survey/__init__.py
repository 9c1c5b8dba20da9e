"""Survey: KD of LLMs (arXiv 2024): ``distil show llm-kd-survey`` tells what it is and how far it is built."""
