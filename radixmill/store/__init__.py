"""Where model files are: names → local files, and what stands in their headers. Knows no arrays of weights.

Both the front (tokenizer, template) and the device (weights) start from these files, so this is the one place that both import.
"""
