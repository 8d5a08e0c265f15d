"""Fresh processes that start from one that has imported torch and transformers, so that tests of receipts are fast."""
