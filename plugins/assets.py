"""The assets that start DAGs, defined once: another definition without the watcher would end it.

An event only triggers a run: the run reads from the bucket or the catalog what there is to do.
"""

from airflow.sdk import Asset, AssetWatcher

from plugins.drop_trigger import DropTrigger

DROPS = Asset("drops", uri="evergreen://drops", watchers=[AssetWatcher(name="bucket", trigger=DropTrigger())])
DATASET = Asset("dataset", uri="evergreen://dataset")
CHALLENGER = Asset("challenger", uri="evergreen://challenger")
RETRAIN = Asset("retrain", uri="evergreen://retrain")
