"""Training of a small dense network by the operations of a backend alone, without Keras and logs on disk.

Each function takes images `[n, 784]`, labels `[n]`, and returns a function that runs some steps: int32
`[steps, batch]`, the indices of the examples, to float32 arrays of the losses and accuracies of these steps.
784-128-10 with dropout 0.2, sparse categorical crossentropy, and Adam by the fused kernel of the backend.
"""

import functools

RATE, DROPOUT = 1e-3, 0.2


def weights():
    """Kernels and biases with Glorot's uniform distribution."""
    import numpy as np

    rng = np.random.default_rng(0)
    for inputs, units in ((784, 128), (128, 10)):
        limit = (6 / (inputs + units)) ** 0.5
        yield rng.uniform(-limit, limit, (inputs, units)).astype("float32")
        yield np.zeros(units, "float32")


def tensorflow(images, labels):
    import tensorflow as tf

    images, labels = tf.constant(images), tf.constant(labels)
    variables = [tf.Variable(value) for value in weights()]
    slots = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in variables]
    powers = [tf.Variable(1.0), tf.Variable(1.0)]

    def step(indices):
        x, y = tf.gather(images, indices), tf.gather(labels, indices)
        with tf.GradientTape() as tape:
            hidden = tf.nn.dropout(tf.nn.relu(x @ variables[0] + variables[1]), DROPOUT)
            logits = hidden @ variables[2] + variables[3]
            value = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        gradients = tape.gradient(value, variables)
        beta_1, beta_2 = powers[0].assign(powers[0] * 0.9), powers[1].assign(powers[1] * 0.999)
        for variable, (m, v), gradient in zip(variables, slots, gradients, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=beta_1,
                beta2_power=beta_2,
                lr=RATE,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-7,
                grad=gradient,
            )
        return value, tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), y), tf.float32))

    return looped(step)


def looped(step):
    """Runs a step of TensorFlow, from int32 `[batch]` to a loss and an accuracy, in one compiled loop."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def chunk(indices):
        count = tf.shape(indices)[0]

        def body(i, losses, accuracies):
            value, accuracy = step(indices[i])
            return i + 1, losses.write(i, value), accuracies.write(i, accuracy)

        empty = [tf.TensorArray(tf.float32, count, element_shape=()) for _ in range(2)]
        _, *arrays = tf.while_loop(lambda i, *_: i < count, body, (0, *empty))
        return [array.stack() for array in arrays]

    return lambda indices: [column.numpy() for column in chunk(tf.constant(indices))]


def jax(images, labels):
    import jax
    import numpy as np
    from jax import numpy as jnp

    images, labels = jnp.array(images), jnp.array(labels)

    def loss(parameters, key, x, y):
        hidden = jax.nn.relu(x @ parameters[0] + parameters[1])
        kept = jax.random.bernoulli(key, 1 - DROPOUT, hidden.shape)
        logits = jnp.where(kept, hidden / (1 - DROPOUT), 0) @ parameters[2] + parameters[3]
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], -1)
        return -chosen.mean(), (logits.argmax(-1) == y).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def chunk(state, images, labels, indices):
        def step(state, rows):
            parameters, m, v, count, key = state
            key, used = jax.random.split(key)
            value_and_gradient = jax.value_and_grad(loss, has_aux=True)
            (value, accuracy), gradients = value_and_gradient(parameters, used, images[rows], labels[rows])
            count = count + 1
            m = [a + (g - a) * 0.1 for a, g in zip(m, gradients, strict=True)]
            v = [a + (g * g - a) * 0.001 for a, g in zip(v, gradients, strict=True)]
            alpha = RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            changes = [alpha * a / (jnp.sqrt(b) + 1e-7) for a, b in zip(m, v, strict=True)]
            parameters = [p - change for p, change in zip(parameters, changes, strict=True)]
            return (parameters, m, v, count, key), (value, accuracy)

        return jax.lax.scan(step, state, indices)

    zeros = [jnp.zeros_like(value) for value in weights()]
    parameters = [jnp.array(value) for value in weights()]
    state = (parameters, zeros, [jnp.copy(zero) for zero in zeros], jnp.zeros(()), jax.random.key(0))

    def run(indices):
        nonlocal state
        state, logs = chunk(state, images, labels, indices)
        return [np.asarray(column) for column in logs]

    return run


def torch(images, labels):
    import torch

    images, labels = torch.as_tensor(images), torch.as_tensor(labels).long()
    network = torch.nn.Sequential(
        torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Dropout(DROPOUT), torch.nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(network.parameters(), RATE, fused=True)

    def run(indices):
        logs = []
        for rows in torch.as_tensor(indices):
            x, y = images[rows], labels[rows]
            logits = network(x)
            value = torch.nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            logs.append(torch.stack([value.detach(), (logits.argmax(-1) == y).float().mean()]))
        return torch.stack(logs).numpy().T

    return run
