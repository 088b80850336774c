"""Networks that only answer: uint8 crops in, embeddings and qualities out."""
