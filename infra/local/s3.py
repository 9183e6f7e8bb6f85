"""The S3 server: a `minio` binary when PATH has one, else `rclone serve s3` from its wheel."""

import shutil
import sysconfig
from pathlib import Path


def command(data: Path, port: int, access_key: str, secret_key: str) -> tuple[list[str], dict[str, str]]:
    """What to run in the foreground, and the environment it needs; secrets stay off the command line."""
    data.mkdir(parents=True, exist_ok=True)
    if minio := shutil.which("minio"):
        environment = {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "MINIO_BROWSER": "off"}
        return [minio, "server", "--address", f"127.0.0.1:{port}", str(data)], environment
    # rclone reads the variable as a CSV line of pairs, so the pair, itself with a comma, is quoted.
    environment = {"RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"', "RCLONE_CONFIG": "/dev/null"}
    arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off", "--log-level", "NOTICE"]
    # Without it rclone hashes each object once more to compare what it wrote with what came: half of an upload's time.
    arguments.append("--ignore-checksum")
    return [str(Path(sysconfig.get_path("scripts")) / "rclone"), *arguments, str(data)], environment
