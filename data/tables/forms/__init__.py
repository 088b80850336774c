"""Forms of files that are no plain tables: JSON, numpy, Arrow, lists of faces, lists of embeddings."""
