"""Looking at results in a browser: what is shown is worked out in numpy; `page` alone knows viser."""
