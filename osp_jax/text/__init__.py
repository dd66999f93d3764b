"""Texts as data: files of texts and labels, the tokenizer, and the splits."""
