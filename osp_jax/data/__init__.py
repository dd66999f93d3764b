from osp_jax import signals

signals.catch_for("osp_jax.data.prepare")
