import unittest

from textkit import slug


class SlugTest(unittest.TestCase):
    def test_words_are_joined(self):
        self.assertEqual(slug("Hello,  World!"), "hello-world")

    def test_nothing_is_left_at_the_ends(self):
        self.assertEqual(slug("--What?--"), "what")
