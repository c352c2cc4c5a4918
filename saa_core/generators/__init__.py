"""Eq. 1: from an image and phrases to boxes with scores."""
