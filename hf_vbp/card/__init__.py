"""Model cards: from the results to Markdown, without network and models."""
