"""Review by people: a page where each picture of a pair is judged on its own, relation by relation."""
