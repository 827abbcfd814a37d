"""What a field's raw code means, and back: scales, units, words, marks, times. Nothing here knows where a code stood."""
