"""MEAL V2 (NeurIPS workshop 2020): ``distil show meal-v2`` tells what it is and how far it is built."""
