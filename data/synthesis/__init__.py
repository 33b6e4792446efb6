"""SCP data synthesis: documents in, verified questions, answers and paraphrases out (section on SCP)."""
