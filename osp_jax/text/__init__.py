"""Texts as data: files of texts and labels, the tokenizer that makes ids of them, and the splits."""
