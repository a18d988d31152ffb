# An image of the static binary and nothing else. It pulls nothing, and compiles nothing: build the binary first,
#   RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target x86_64-unknown-linux-gnu -p ringfort
# (or `just up`, which does that and starts the cluster). Dockerfile.source compiles inside Docker instead.
FROM scratch
ARG BINARY=target/x86_64-unknown-linux-gnu/release/ringfort
COPY ${BINARY} /ringfort
ENV RINGFORT_DATA_DIR=/data
EXPOSE 7400 7500 7600
ENTRYPOINT ["/ringfort"]
CMD ["serve"]
