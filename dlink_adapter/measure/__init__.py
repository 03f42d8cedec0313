"""How large the gap is, how good captions are, and how sure such figures are."""
