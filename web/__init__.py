"""The studio: a page on one's own machine to collect pictures, judge pairs, train and compare."""
