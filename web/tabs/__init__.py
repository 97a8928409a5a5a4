"""The studio's tabs, one file each: `NAME_tab(studio)` builds its components inside the open tab."""
