"""The folder of prepared datasets: from the environment, and one line where the home folder is not known."""

import os
import pwd
from pathlib import Path

import pytest

from alexnet.core.errors import UserError
from alexnet.data.home import data_home
from alexnet.data.sources import open_source


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    for name in ("ALEXNET_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)


def no_entry(*_):
    raise KeyError("uid not found")


@pytest.mark.parametrize(
    ("variables", "home"),
    [
        ({"ALEXNET_HOME": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"ALEXNET_HOME": "~/a", "HOME": "/c"}, "/c/a"),
        ({"ALEXNET_HOME": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/alexnet"),
        ({"ALEXNET_HOME": "  ", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/alexnet"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/alexnet"),
        ({"XDG_CACHE_HOME": "~/b", "HOME": "/c"}, "/c/.cache/alexnet"),
        ({}, "/entry/.cache/alexnet"),
        ({"HOME": ""}, "/entry/.cache/alexnet"),
        ({"HOME": "", "ALEXNET_HOME": "~"}, "/entry"),
    ],
)
def test_the_home_of_each_environment(variables, home, monkeypatch):
    entry = pwd.struct_passwd(("me", "x", 0, 0, "", "/entry", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: entry)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert data_home() == Path(home)


@pytest.mark.parametrize("variables", [{}, {"HOME": ""}, {"ALEXNET_HOME": "~/x"}, {"ALEXNET_HOME": "~nosuch/x"}])
def test_no_home_folder_costs_one_line(variables, monkeypatch):
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r": set ALEXNET_HOME to a folder, for prepared datasets and downloads$"):
        data_home()


def test_home_folders_of_users_who_do_not_exist_in_options(monkeypatch):
    monkeypatch.setenv("ALEXNET_HOME", os.devnull)
    with pytest.raises(UserError, match="--data-root ~nosuch/x: there is no such folder"):
        open_source("digits", Path("~nosuch/x"))
    with pytest.raises(UserError, match="~nosuch/x"):
        open_source("~nosuch/x")
