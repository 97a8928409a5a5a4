@echo off
rem From a fresh clone to a running mapo, on Windows: finds a Python, trainer\installer\bootstrap.py does the rest.
setlocal
set "FITS=import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))"
rem A name on PATH is not proof (Windows has a "python" that only opens the Store), so each one is asked.
for %%P in ("python" "py -3.13" "py -3.12" "py -3.11" "py -3.10") do (
    %%~P -I -S -c "%FITS%" >nul 2>&1 && (
        set "PYTHON=%%~P"
        goto found
    )
)
echo mapo needs Python 3.10, 3.11, 3.12 or 3.13, and none was found. 1>&2
echo Install one from https://www.python.org/downloads/ and start this again. 1>&2
exit /b 1

:found
rem -I: the folder of bootstrap.py must not be searched for modules, its neighbours' names are their own.
%PYTHON% -I "%~dp0trainer\installer\bootstrap.py" %*
exit /b %ERRORLEVEL%
