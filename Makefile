# make demo [IMAGE=…]   set up, mount the sample image (or IMAGE), show it, unmount
# make setup            leave .venv/bin/unionmount
# make install          put it into PATH below PREFIX: /usr/local for root, else ~/.local; with the man
#                       pages and the completions of shells. It is a link to this directory.
# make uninstall        take that away
# make check            the quick loop before a commit: checks, quick C and unit tests, a few mounts
# make test             set up and run every check and test that this machine can run; TEST_WORKERS
# make test-long        the same with every repetition: more examples, cuts, kills and engines
# make lint             the checks alone
# make docs             write the command reference, build the site in build/site
# make fuzz             run the fuzzers, FUZZ_SECONDS each
# make fuzz-mount       change the directories below live mounts for FUZZ_SECONDS, with ASAN; FUZZ_SEED
# make soak             compare random operations with overlayfs for SOAK_MINUTES; SOAK_ARGS
# make soak-faults      kill daemons and commits for SOAK_MINUTES
# make soak-powercut    cut the power of recorded disks for SOAK_MINUTES
# make bench            measure; one table, one picture, one JSON; BENCH_ARGS=--quick for a short run
# make bench-long       measure everything else as well: index, mounts, pull, podman, search, ...
# make bench-supplies   fetch what `make bench` compares with and works on; it uses no network itself
# make core             compile the C core in place, after a change to csrc
# make wheel, make clean

VENV := .venv/bin
FUZZ_SECONDS ?= 60
SOAK_MINUTES ?= 60
IMAGE ?=
C_FILES = $(wildcard csrc/*/*.c csrc/*/*.h tests/c/*.c tests/c/*.h tests/faults/*.c)
C_FLAGS := -std=c17 -O2 -D_GNU_SOURCE -Wall -Wextra -Werror -fvisibility=hidden -pthread

.PHONY: setup setup-test core install uninstall demo check test test-long test-newest docs lint lint-style \
	lint-format lint-types lint-c lint-c-format lint-docs fuzz fuzz-mount soak soak-faults soak-powercut \
	bench bench-long bench-supplies wheel clean

setup:
	@scripts/setup.sh

setup-test:
	@scripts/setup.sh test

core:
	@scripts/setup.sh

install: setup
	@scripts/install.sh install "$(PREFIX)"

uninstall:
	@scripts/install.sh uninstall "$(PREFIX)"

demo: setup
	@scripts/demo.sh $(IMAGE)

test: setup-test
	@$(VENV)/python scripts/run_tests.py

test-newest:
	@scripts/test_newest.sh

check: setup-test
	@$(VENV)/python scripts/run_tests.py --quick

test-long: setup-test
	$(VENV)/python -m pip install -q --disable-pip-version-check pandas pyarrow
	@UNIONMOUNT_TEST_LONG=1 $(VENV)/python scripts/run_tests.py

lint: setup-test
	@$(MAKE) --no-print-directory -k lint-style lint-format lint-types lint-c lint-c-format \
		lint-docs

lint-style:
	$(VENV)/ruff check .

lint-format:
	$(VENV)/ruff format --check .

lint-types:
	$(VENV)/mypy

lint-c:
	for file in csrc/*/*.c; do $(CC) $(C_FLAGS) -Icsrc -c $$file -o /dev/null || exit 1; done

lint-c-format:
	$(VENV)/clang-format --dry-run -Werror $(C_FILES)

lint-docs:
	$(VENV)/python -m sphinx -q -E -a -W --keep-going -b html -c docs . build/site

docs: setup-test
	$(VENV)/python scripts/write_reference.py
	@$(MAKE) --no-print-directory lint-docs
	@echo build/site/index.html

fuzz:
	$(MAKE) -C tests/c fuzz FUZZ_SECONDS=$(FUZZ_SECONDS)

fuzz-mount: setup-test
	$(MAKE) -C tests/c build/mount/_core.abi3.so PYTHON=$(CURDIR)/$(VENV)/python
	cd tests && FUZZ_SECONDS=$(FUZZ_SECONDS) ../$(VENV)/python -m fuzz_mount $(FUZZ_ARGS)

# A mount namespace that another process makes holds copies of all mounts that it sees, and overlayfs
# refuses an upper as long as one is mounted anywhere (EBUSY). So a soak has its mounts to itself.
APART := unshare --mount --propagation private

soak: setup-test
	cd tests && SOAK_MINUTES=$(SOAK_MINUTES) $(APART) ../$(VENV)/python -m differential.soak \
		$(SOAK_ARGS)

soak-faults: setup-test
	SOAK_MINUTES=$(SOAK_MINUTES) $(APART) $(VENV)/python -m pytest tests/faults -k kill

soak-powercut: setup-test
	SOAK_MINUTES=$(SOAK_MINUTES) $(APART) $(VENV)/python -m pytest tests/faults -k power_cut

bench: setup-test
	$(VENV)/python -m bench $(BENCH_ARGS)

bench-long: setup-test
	$(VENV)/python -m bench --all $(BENCH_ARGS)

bench-supplies: setup-test
	$(VENV)/python -m bench.supplies
	$(VENV)/python -m bench.peers

wheel: setup
	$(VENV)/python -m pip wheel -q --no-deps -w dist .

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	$(MAKE) -C tests/c clean
