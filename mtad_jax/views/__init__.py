"""How texts and tables look as HTML: in notebooks and in reports, by day, by night and in print."""
