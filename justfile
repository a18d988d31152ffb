# Everyday commands. `just` without arguments lists them; each is one line that works without `just`, too.

triple := "x86_64-unknown-linux-gnu"

_list:
    @just --list

# Check everything, as the CI does
check:
    .ci/run

# Run the tests (the same as README's)
test:
    cargo test --workspace

# A local cluster of three processes
dev *args:
    cargo run --release -p ringfort -- dev {{args}}

# Build the static binary for the container image
static:
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target {{triple}} -p ringfort

# Build the static binary and the image, and start the cluster of docker-compose.yml
up: static
    docker-compose up --build --detach

# Stop that cluster; its data stays in the volumes
down:
    docker-compose down

# Replay one seed of the simulation
sim seed *args:
    cargo run -p ringfort-tests --bin sim -- --seed {{seed}} {{args}}

# Plant each bug in turn and count the seeds until it is found: the table of tests/README.md
hunt *args:
    cargo build --release -p ringfort-tests --features mutants --bins
    target/release/hunt {{args}}

# Many seeds of the simulation, e.g. `just soak --seeds 1000 --minutes 60`
soak *args:
    cargo build --release -p ringfort-tests --bins
    target/release/soak {{args}}
