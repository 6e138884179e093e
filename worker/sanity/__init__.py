"""Whether a deployed model is sane: fixed questions with known answers, asked through the conversation port alone."""
