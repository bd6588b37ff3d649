"""A person is treated with SFR-on where the policy accepts that: real processes, post to receipt."""

import json
from collections.abc import Callable
from pathlib import Path

from models_store.manifest import digest_json
from models_store.tensors import tensor_digest, unpack
from tests.acceptance.conftest import forgotten_subject
from tests.support.problems import problem_of
from tests.support.service import Home

FILES = "/models/digits/versions"


def test_a_person_is_treated_and_every_paper_says_so(
    copy_of: Callable[[Home], Home], trained: Home, tmp_path: Path
) -> None:
    home = copy_of(trained)
    settings = {"sfron": {"cycles": 20, "clip": 0.5, "lift": 0.1}}
    changes = [f"methods={json.dumps(settings)}", "final_method=sfron", "accept_empirical=true"]
    home.run("expunge", "models", "policy", "digits", *(word for each in changes for word in ("--set", each)))
    home.worker()
    with home.service() as service:
        deletion = service.forget(forgotten_subject(home).id)

        version = service.version("digits")
        assert (version["number"], version["guarantee"], version["method"]) == (2, "empirical", "sfron")
        assert version["manifest"]["settings"]["cycles"] == 20
        served = service.admin.get(f"{FILES}/2/files/weights.safetensors").content
        tensors, _ = unpack(served)
        assert digest_json([tensor_digest(tensors)]) == version["weights_digest"]
        problem_of(service.admin.get(f"{FILES}/1/files/weights.safetensors"), 410, "version-purged")
        evidence = service.admin.get(f"{FILES}/2/files/evidence.json").json()
        (shown,) = evidence["checks"]["course"]["figures"]["shards"]
        assert shown["num_records"]["forget"] > 0
        assert evidence["checks"]["utility"]["gates"]

        receipt, keys = tmp_path / "receipt", tmp_path / "keys.json"
        receipt.write_text(service.admin.get(f"/deletions/{deletion}/receipt").text)
        keys.write_text(service.admin.get("/.well-known/jwks.json").text)
        said = home.run("expunge", "receipt", "verify", str(receipt), "--keys", str(keys))
        assert json.loads(said.out)["request"] == deletion
        assert "treated by sfron" in said.err
