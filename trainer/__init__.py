"""The engine: judged pairs in, a LoRA file out. Imports no face and no host."""
