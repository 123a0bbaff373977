#include "idistill/comm/communicator.hpp"

#include <setjmp.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>

#include "idistill/base/error.hpp"
#include "idistill/base/philox.hpp"
#include "idistill/comm/claims.hpp"
#include "idistill/comm/mpi.hpp"
#include "idistill/comm/mpi_handle.hpp"
#include "idistill/comm/node.hpp"
#include "ranks.hpp"

using namespace idistill;
using namespace idistill::comm;
using idistill::test::world;

namespace {

/// Value `i` of what rank `rank` sends.
std::int64_t payload(int rank, std::size_t i) { return 1000003LL * (rank + 1) + static_cast<std::int64_t>(i * i); }

std::vector<std::int64_t> payloads(int rank, std::size_t count) {
    std::vector<std::int64_t> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = payload(rank, i);
    return values;
}

void check_broadcast(Communicator& ranks, std::size_t count) {
    for (int root = 0; root < ranks.size(); ++root) {
        auto values = payloads(ranks.rank(), count);
        ranks.broadcast(std::span(values), root);
        BOOST_TEST((values == payloads(root, count)));
    }
}

void check_all_reduce(Communicator& ranks, std::size_t count) {
    const std::int64_t size = ranks.size();
    auto sum = payloads(ranks.rank(), count);
    auto largest = sum;
    auto smallest = sum;
    ranks.all_reduce(std::span(sum), Reduction::sum);
    ranks.all_reduce(std::span(largest), Reduction::max);
    ranks.all_reduce(std::span(smallest), Reduction::min);
    std::vector<std::int64_t> expected(count);
    for (std::size_t i = 0; i < count; ++i) {
        expected[i] = 1000003LL * size * (size + 1) / 2 + size * static_cast<std::int64_t>(i * i);
    }
    BOOST_TEST((sum == expected));
    BOOST_TEST((largest == payloads(ranks.size() - 1, count)));
    BOOST_TEST((smallest == payloads(0, count)));
}

/// Rank r sends r * step values: rank 0 nothing.
void check_gathers(Communicator& ranks, std::size_t step) {
    const auto count = [step](int rank) { return static_cast<std::size_t>(rank) * step; };
    const auto mine = payloads(ranks.rank(), count(ranks.rank()));
    const auto check_parts = [&](const std::vector<std::vector<std::int64_t>>& parts) {
        BOOST_REQUIRE_EQUAL(parts.size(), static_cast<std::size_t>(ranks.size()));
        for (int rank = 0; rank < ranks.size(); ++rank) {
            BOOST_TEST((parts[static_cast<std::size_t>(rank)] == payloads(rank, count(rank))));
        }
    };
    check_parts(ranks.all_gather<std::int64_t>(mine));
    for (int root = 0; root < ranks.size(); ++root) {
        const auto parts = ranks.gather<std::int64_t>(mine, root);
        if (ranks.rank() == root) {
            check_parts(parts);
        } else {
            BOOST_TEST(parts.empty());
        }
    }
}

template <class Float, class Bits>
void check_disjoint(std::initializer_list<Bits> more) {
    using Limits = std::numeric_limits<Float>;
    std::vector<Bits> special(more);
    for (const Float value : {Float(-0.0), Limits::denorm_min(), -Limits::denorm_min(), Limits::infinity(),
                              -Limits::infinity(), Limits::quiet_NaN(), Limits::max(), Limits::lowest(), Float(0.1)}) {
        special.push_back(std::bit_cast<Bits>(value));
    }
    const std::size_t count = special.size() * 5 + 1;  // every rank has every special value somewhere
    std::vector<Float> values(count, Float(0));
    for (std::size_t i = 0; i < count; ++i) {
        const bool is_mine = static_cast<int>(i) % world().size() == world().rank();
        if (is_mine) values[i] = std::bit_cast<Float>(special[i % special.size()]);
    }
    world().all_reduce_disjoint(std::span(values));
    for (std::size_t i = 0; i < count; ++i) {
        BOOST_TEST(std::bit_cast<Bits>(values[i]) == special[i % special.size()]);
    }
}

/// Units of a stage: distinct, not in order, not starting at 0.
std::vector<std::int64_t> units_of(int stage, std::size_t count) {
    std::vector<std::int64_t> units(count);
    for (std::size_t i = 0; i < count; ++i) units[i] = 1000 * stage + static_cast<std::int64_t>((i * 37) % count);
    return units;
}

std::vector<std::int64_t> sorted(std::vector<std::int64_t> values) {
    std::sort(values.begin(), values.end());
    return values;
}

void nap(double milliseconds) { std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds)); }

/// The units that all ranks got, sorted.
std::vector<std::int64_t> everybodys(std::span<const std::int64_t> mine) {
    std::vector<std::int64_t> all;
    for (const auto& part : world().all_gather(mine)) all.insert(all.end(), part.begin(), part.end());
    return sorted(all);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(communicator)

BOOST_AUTO_TEST_CASE(broadcast_gives_everyone_the_roots_values) {
    for (const std::size_t count : {0, 1, 17, 100000}) check_broadcast(world(), count);
    std::vector<double> fractions(3, world().rank() == 0 ? 0.1 : 7.0);
    world().broadcast(std::span(fractions));
    BOOST_TEST((fractions == std::vector<double>(3, 0.1)));
}

BOOST_AUTO_TEST_CASE(all_reduce_has_closed_form) {
    for (const std::size_t count : {0, 1, 17, 100000}) check_all_reduce(world(), count);
    std::array<std::uint8_t, 1> flag{static_cast<std::uint8_t>(world().rank() == world().size() - 1 ? 1 : 0)};
    world().all_reduce(std::span<std::uint8_t>(flag), Reduction::max);
    BOOST_TEST(flag[0] == 1);
}

BOOST_AUTO_TEST_CASE(disjoint_reduction_keeps_every_bit) {
    check_disjoint<float, std::uint32_t>({0x7fc12345U, 0xffc00001U, 0x7f800001U});
    check_disjoint<double, std::uint64_t>({0x7ff8000012345678ULL, 0xfff8000000000001ULL, 0x7ff0000000000001ULL});
}

BOOST_AUTO_TEST_CASE(gathers_take_different_and_empty_parts) {
    for (const std::size_t step : {0, 1, 5, 30000}) check_gathers(world(), step);
}

BOOST_AUTO_TEST_CASE(gather_takes_structs) {
    struct Head {
        double value;
        std::int32_t row;
    };
    const Head mine{0.5 * world().rank(), 10 * world().rank()};
    const auto heads = world().all_gather(std::span<const Head>(&mine, 1));
    for (std::size_t rank = 0; rank < heads.size(); ++rank) {
        BOOST_TEST(heads[rank].at(0).value == 0.5 * static_cast<double>(rank));
        BOOST_TEST(heads[rank].at(0).row == 10 * static_cast<int>(rank));
    }
}

BOOST_AUTO_TEST_CASE(counts_above_the_piece_are_split) {
    const auto ranks = make_mpi_communicator(30.0, 7);
    for (const std::size_t count : {6, 7, 8, 14, 1000}) {
        check_broadcast(*ranks, count);
        check_all_reduce(*ranks, count);
        check_gathers(*ranks, count);
    }
}

BOOST_AUTO_TEST_CASE(every_unit_is_handed_out_once) {
    const Philox random(43, "delays");
    for (int stage = 1; stage <= 4; ++stage) {  // without a barrier between them: fast ranks run ahead
        const auto units = units_of(stage, stage == 3 ? 0 : 60);
        std::vector<std::int64_t> reported;  // used by the helper thread, and here after the claims are gone
        std::vector<std::int64_t> mine;
        {
            const auto claims = make_work_claims(world(), units, [&](std::int64_t unit) { reported.push_back(unit); });
            while (const auto unit = claims->next()) {
                mine.push_back(*unit);
                nap(static_cast<double>(random.below(4, static_cast<std::uint64_t>(*unit), 0)));
                claims->finished(*unit);
            }
            BOOST_TEST(!claims->next().has_value());
        }
        if (world().size() == 1) BOOST_TEST((mine == units));  // in the given order
        if (world().is_root()) {
            BOOST_TEST((sorted(reported) == sorted(units)));
        } else {
            BOOST_TEST(reported.empty());
        }
        if (stage == 4) BOOST_TEST((everybodys(mine) == sorted(units)));
    }
}

BOOST_AUTO_TEST_CASE(slow_ranks_leave_units_to_the_others) {
    const auto units = units_of(1, 40);
    std::vector<std::int64_t> mine;
    {
        const auto claims = make_work_claims(world(), units, nullptr);
        while (const auto unit = claims->next()) {
            mine.push_back(*unit);
            nap(world().is_root() && world().size() > 1 ? 200
                                                        : 4);  // rank 0 computes: the others are served all the same
            claims->finished(*unit);
        }
    }
    BOOST_TEST((everybodys(mine) == sorted(units)));
    if (world().size() > 1 && world().is_root()) BOOST_TEST(mine.size() <= 10U);
}

BOOST_AUTO_TEST_CASE(an_abandoned_stage_does_not_reach_into_the_next) {
    {
        const auto claims = make_work_claims(world(), units_of(1, 100), nullptr);
        if (world().rank() % 2 == 0) BOOST_TEST(claims->next().has_value());
    }
    const auto units = units_of(2, 10);
    std::vector<std::int64_t> mine;
    const auto claims = make_work_claims(world(), units, nullptr);
    while (const auto unit = claims->next()) mine.push_back(*unit);
    BOOST_TEST((everybodys(mine) == sorted(units)));
}

BOOST_AUTO_TEST_CASE(what_a_report_throws_is_rethrown_on_rank_0) {
    if (world().size() > 1) return;  // its helper is gone after that: with more ranks the job would end here
    bool thrown = false;
    try {
        const auto ranks = make_mpi_communicator(5.0);
        const std::array<std::int64_t, 1> units{5};
        const auto claims = make_work_claims(*ranks, units, [](std::int64_t) { throw Error(ExitCode::bad_input, {}); });
        claims->finished(*claims->next());
        nap(20);
        ranks->barrier();
    } catch (const Error& error) {
        thrown = error.code() == ExitCode::bad_input;
    }
    BOOST_TEST(thrown);
}

BOOST_AUTO_TEST_CASE(a_rank_that_does_not_arrive_is_named) {
    if (world().size() == 1) return;
    for (const int late : {0, world().size() - 1}) {
        const auto ranks = make_mpi_communicator(1.0);
        ranks->barrier();
        if (ranks->rank() == late) {
            nap(2000);
            world().barrier();
            ranks->barrier();
        } else {
            std::optional<Error> caught;
            try {
                ranks->barrier();
            } catch (const Error& error) {
                caught = error;
            }
            world().barrier();
            BOOST_REQUIRE(caught.has_value());
            BOOST_TEST((caught->code() == ExitCode::restart_me));
            const std::string expected = "rank " + std::to_string(late) + " (" + host_name() + ") has not arrived";
            BOOST_TEST_CONTEXT(caught->what()) {
                BOOST_TEST(caught->failure().found.starts_with(expected));
                BOOST_TEST(caught->failure().found.find(", rank") == std::string::npos);
            }
        }
        world().barrier();
    }
}

BOOST_AUTO_TEST_CASE(a_rank_that_computes_is_waited_for) {
    const auto ranks = make_mpi_communicator(0.6);
    for (const int busy : {0, world().size() - 1}) {
        ranks->barrier();
        const auto start = std::chrono::steady_clock::now();
        volatile double sum = 0.0;
        while (ranks->rank() == busy && std::chrono::steady_clock::now() - start < std::chrono::seconds(3))
            sum = sum + 1.0;
        BOOST_CHECK_NO_THROW(ranks->barrier());
        const auto claims = make_work_claims(*ranks, {}, [](std::int64_t) {});
        BOOST_TEST(!claims->next().has_value());
    }
}

BOOST_AUTO_TEST_CASE(handle_and_place) {
    int size = 0;
    int rank = -1;
    MPI_Comm_size(mpi_handle(world()), &size);
    MPI_Comm_rank(mpi_handle(world()), &rank);
    BOOST_TEST(size == world().size());
    BOOST_TEST(rank == world().rank());
    const NodePlace place = node_place(world());
    BOOST_TEST(place.size == world().size());  // mpirun of a test starts all ranks on one host
    BOOST_TEST(place.rank == world().rank());
}

namespace {

sigjmp_buf after_fault;

/// Whether writing to `address` is refused by the memory's protection.
bool is_write_protected(std::byte* address) {
    struct sigaction jump {};
    struct sigaction before {};
    jump.sa_handler = [](int) { siglongjmp(after_fault, 1); };
    sigaction(SIGSEGV, &jump, &before);
    volatile bool refused = true;
    if (sigsetjmp(after_fault, 1) == 0) {
        *static_cast<volatile std::byte*>(address) = std::byte{1};
        refused = false;
    }
    sigaction(SIGSEGV, &before, nullptr);
    return refused;
}

}  // namespace

BOOST_AUTO_TEST_CASE(shared_memory_is_one_memory_and_protected) {
    for (const std::size_t count : {1U, 4096U, 100001U}) {
        NodeSharedMemory memory(world(), count);
        BOOST_TEST(memory.is_writer() == (world().rank() == 0));
        const auto bytes = memory.bytes();
        BOOST_REQUIRE_EQUAL(bytes.size(), count);
        BOOST_TEST(reinterpret_cast<std::uintptr_t>(bytes.data()) % 64 == 0);
        if (memory.is_writer()) {
            for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7 + count);
        }
        memory.publish();
        const auto differs = [&](std::size_t i) { return bytes[i] != static_cast<std::byte>(i * 7 + count); };
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) wrong += differs(i) ? 1 : 0;
        BOOST_TEST(wrong == 0U);
        for (const std::size_t i : {std::size_t{0}, count / 2, count - 1}) BOOST_TEST(is_write_protected(&bytes[i]));
        world().barrier();
    }
}

BOOST_AUTO_TEST_CASE(before_publishing_writes_are_seen_by_all) {
    NodeSharedMemory memory(world(), static_cast<std::size_t>(world().size()));
    const auto bytes = memory.bytes();  // every rank writes its own byte: one memory, not copies of it
    bytes[static_cast<std::size_t>(world().rank())] = static_cast<std::byte>(100 + world().rank());
    memory.publish();
    for (int rank = 0; rank < world().size(); ++rank) {
        BOOST_TEST(static_cast<int>(bytes[static_cast<std::size_t>(rank)]) == 100 + rank);
    }
}

BOOST_AUTO_TEST_CASE(empty_shared_memory) {
    NodeSharedMemory memory(world(), 0);
    BOOST_TEST(memory.bytes().empty());
    memory.publish();
}

BOOST_AUTO_TEST_CASE(shared_memory_that_does_not_fit_is_refused) {
    if (world().size() == 1) return;
    const auto is_too_large = [](const Error& error) { return error.code() == ExitCode::too_large; };
    BOOST_CHECK_EXCEPTION(NodeSharedMemory(world(), std::size_t{1} << 50U), Error, is_too_large);
}

BOOST_AUTO_TEST_SUITE_END()
