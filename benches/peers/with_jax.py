"""JAX: the product alone, and `q_matmul_int8` as it is written there."""

import jax
import jax.numpy as jnp


def versions():
    return {"jax": jax.__version__}


@jax.jit
def integer_product(a, w):
    return jnp.matmul(a, w, preferred_element_type=jnp.int32)


@jax.jit
def q_matmul_int8(a, w):
    a_scale = 127 / jnp.max(jnp.abs(a), axis=1, keepdims=True)
    w_scale = 127 / jnp.max(jnp.abs(w), axis=0, keepdims=True)
    quantise = lambda x: jnp.clip(jnp.round(x), -127, 127).astype(jnp.int8)
    return integer_product(quantise(a * a_scale), quantise(w * w_scale)) / (a_scale * w_scale)


def peers(data, threads):
    def product(function, a, w):
        a, w = jnp.asarray(a), jnp.asarray(w)
        run = lambda: function(a, w).block_until_ready()
        return run, run

    yield "gemm", "JAX", lambda: product(integer_product, data.qa, data.qw)
    yield "q_matmul", "JAX", lambda: product(q_matmul_int8, data.a, data.w)
