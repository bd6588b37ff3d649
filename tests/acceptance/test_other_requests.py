"""A record is corrected, then a class deleted: real processes, post to receipt, equal to the oracle."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.conftest import forgotten_subject
from tests.support.service import Home

RECORD = "SELECT record_ref FROM records WHERE dataset_id = ? AND row = ?"


def test_a_record_is_corrected_and_a_class_forgotten_exactly(
    copy_of: Callable[[Home], Home], trained: Home, tmp_path: Path
) -> None:
    home = copy_of(trained)
    home.worker()
    subject, receipt, keys = forgotten_subject(home), tmp_path / "receipt", tmp_path / "keys.json"
    with home.service() as service:
        keys.write_text(service.admin.get("/.well-known/jwks.json").text)
        # The digits' record ids are their rows.
        change = {"subject_id": subject.id, "record_id": str(subject.rows[0]), "changes": {"label": 4}}
        whole = {"model": "digits", "label": 7}
        for number, (path, body) in enumerate({"/rectifications": change, "/class-deletions": whole}.items()):
            where = service.admin.post(path, json=body).headers["location"]
            if path == "/rectifications":
                service.admin.post(f"{where}:approve")
            service.wait_until_completed(where.removeprefix("/deletions/"))
            (target,) = service.admin.get(where).json()["targets"]
            assert target["truth"]["outcome"] == "unlearned"

            version = service.version("digits")
            assert (version["number"], version["guarantee"]) == (number + 2, "exact")
            oracle = home.run("expunge-worker", "oracle", "digits", "--json")
            assert json.loads(oracle.out)["oracle_digest"] == version["weights_digest"]

            receipt.write_text(service.admin.get(f"{where}/receipt").text)
            said = home.run("expunge", "receipt", "verify", str(receipt), "--keys", str(keys))
            assert json.loads(said.out)["kind"] == path.strip("/").removesuffix("s").replace("-", "_")
        assert json.loads(said.out)["label"] == 7
        assert "trained without records of this class" in said.err
    assert not any(subject.record_bytes(home)[0])
    assert all(any(record) for record in subject.record_bytes(home)[1:])
