"""Reading the commit of a result does not write to the repository."""

import os
import subprocess

from osp_jax.runtime import provenance


def test_asking_for_the_commit_takes_no_lock_of_the_repository(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("x")
    git("add", ".")
    git("commit", "-m", "one")
    os.utime(tmp_path / "file", (0, 0))  # a status that takes the lock writes this to the index
    before = (tmp_path / ".git/index").read_bytes()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "osp_jax/runtime/provenance.py"))
    assert len(provenance.provenance(0)["commit"]) == 40
    assert (tmp_path / ".git/index").read_bytes() == before
