"""Review by annotators: a web page on which each image of a pair is judged on its own, relation by relation."""
