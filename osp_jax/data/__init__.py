from osp_jax.runtime import signals

signals.catch_for("osp_jax.data.prepare")
