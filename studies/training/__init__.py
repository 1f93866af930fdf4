"""How the embedded models and their judges were trained; needed only to train them again."""
