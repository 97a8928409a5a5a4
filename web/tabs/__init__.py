"""The studio's tabs, one file each: `NAME_tab(context)` builds its components inside the open tab."""
