import unittest

from textkit import wrap


class WrapTest(unittest.TestCase):
    def test_short_text_is_one_line(self):
        self.assertEqual(wrap("one two", 20), ["one two"])

    def test_long_word_has_its_own_line(self):
        self.assertEqual(wrap("a extraordinary b", 5), ["a", "extraordinary", "b"])

    def test_no_line_is_wider_than_asked(self):
        for width in range(3, 12):
            for line in wrap("the cat and the dog sat on the mat", width):
                self.assertLessEqual(len(line), width)

    def test_nothing_gives_no_lines(self):
        self.assertEqual(wrap("   ", 10), [])
