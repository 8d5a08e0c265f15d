"""Model cards: from the record of a run to Markdown."""
