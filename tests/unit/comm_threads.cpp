#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cstdint>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "findings.hpp"
#include "idistill/base/error.hpp"
#include "idistill/comm/claims.hpp"
#include "idistill/comm/mpi_handle.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/comm/thread_group.hpp"

using namespace idistill;
using namespace idistill::comm;
using idistill::test::Findings;

namespace {

std::vector<std::int64_t> payloads(int rank, std::size_t count) {
    std::vector<std::int64_t> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = 1000003LL * (rank + 1) + static_cast<std::int64_t>(i * i);
    return values;
}

void nap(double milliseconds) { std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds)); }

double seconds_of(const auto& body) {
    const auto start = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(threads)

BOOST_AUTO_TEST_CASE(collectives_have_closed_forms) {
    Findings wrong;
    for (const int size : {1, 2, 3, 5}) {
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            wrong.expect(ranks.size() == size, "size");
            for (const std::size_t count : {0, 1, 1000}) {
                for (int root = 0; root < size; ++root) {
                    auto values = payloads(ranks.rank(), count);
                    ranks.broadcast(std::span(values), root);
                    wrong.expect(values == payloads(root, count), "broadcast");
                }
                auto sum = payloads(ranks.rank(), count);
                auto largest = sum;
                auto smallest = sum;
                ranks.all_reduce(std::span(sum), Reduction::sum);
                ranks.all_reduce(std::span(largest), Reduction::max);
                ranks.all_reduce(std::span(smallest), Reduction::min);
                for (std::size_t i = 0; i < count; ++i) {
                    const std::int64_t expected =
                        1000003LL * size * (size + 1) / 2 + size * static_cast<std::int64_t>(i * i);
                    wrong.expect(sum[i] == expected, "sum");
                }
                wrong.expect(largest == payloads(size - 1, count), "max");
                wrong.expect(smallest == payloads(0, count), "min");
            }
        });
    }
    BOOST_TEST(wrong.text() == "");
}

BOOST_AUTO_TEST_CASE(gathers_take_different_and_empty_parts) {
    Findings wrong;
    constexpr int size = 4;
    run_ranks_as_threads(size, [&](Communicator& ranks) {
        const auto count = [](int rank) { return static_cast<std::size_t>(rank) * 3; };
        const auto mine = payloads(ranks.rank(), count(ranks.rank()));
        const auto expect_all = [&](const std::vector<std::vector<std::int64_t>>& parts) {
            wrong.expect(parts.size() == size, "parts");
            for (int rank = 0; rank < size; ++rank) {
                wrong.expect(parts.at(static_cast<std::size_t>(rank)) == payloads(rank, count(rank)), "part");
            }
        };
        expect_all(ranks.all_gather<std::int64_t>(mine));
        for (int root = 0; root < size; ++root) {
            const auto parts = ranks.gather<std::int64_t>(mine, root);
            if (ranks.rank() == root) {
                expect_all(parts);
            } else {
                wrong.expect(parts.empty(), "parts elsewhere");
            }
        }
        const NodePlace place = node_place(ranks);
        wrong.expect(place.size == size && place.rank == ranks.rank(), "place");
    });
    BOOST_TEST(wrong.text() == "");
}

BOOST_AUTO_TEST_CASE(disjoint_reduction_keeps_every_bit) {
    using Limits = std::numeric_limits<float>;
    const std::vector<std::uint32_t> special{0x7fc12345U,
                                             0xffc00001U,
                                             0x7f800001U,
                                             std::bit_cast<std::uint32_t>(-0.0F),
                                             std::bit_cast<std::uint32_t>(Limits::denorm_min()),
                                             std::bit_cast<std::uint32_t>(-Limits::infinity()),
                                             std::bit_cast<std::uint32_t>(Limits::max())};
    Findings wrong;
    run_ranks_as_threads(3, [&](Communicator& ranks) {
        std::vector<float> values(special.size(), 0.0F);
        for (std::size_t i = 0; i < special.size(); ++i) {
            if (static_cast<int>(i) % 3 == ranks.rank()) values[i] = std::bit_cast<float>(special[i]);
        }
        ranks.all_reduce_disjoint(std::span(values));
        for (std::size_t i = 0; i < special.size(); ++i) {
            wrong.expect(std::bit_cast<std::uint32_t>(values[i]) == special[i], "bits of " + std::to_string(i));
        }
    });
    BOOST_TEST(wrong.text() == "");
}

BOOST_AUTO_TEST_CASE(ranks_wait_for_the_last_at_a_barrier) {
    Findings wrong;
    std::atomic<int> arrived{0};
    run_ranks_as_threads(4, [&](Communicator& ranks) {
        for (int round = 1; round <= 20; ++round) {
            if (ranks.rank() == round % 4) nap(2);
            ++arrived;
            ranks.barrier();
            wrong.expect(arrived == 4 * round, "a rank left round " + std::to_string(round) + " early");
            ranks.barrier();
        }
    });
    BOOST_TEST(wrong.text() == "");
}

BOOST_AUTO_TEST_CASE(a_throwing_rank_wakes_the_others) {
    std::atomic<int> passed{0};
    const auto run = [&] {
        run_ranks_as_threads(4, [&](Communicator& ranks) {
            ranks.barrier();
            if (ranks.rank() == 2) throw std::domain_error("rank 2's own");
            ranks.barrier();
            ++passed;
        });
    };
    const double seconds = seconds_of([&] {
        BOOST_CHECK_EXCEPTION(run(), std::domain_error,
                              [](const auto& error) { return std::string(error.what()) == "rank 2's own"; });
    });
    BOOST_TEST(passed == 0);
    BOOST_TEST(seconds < 10.0);  // far below the stall timeout of 60 s
}

BOOST_AUTO_TEST_CASE(the_lowest_of_several_failures_is_rethrown) {
    const auto run = [] {
        run_ranks_as_threads(3, [](Communicator& ranks) {
            if (ranks.rank() > 0) throw std::domain_error(std::to_string(ranks.rank()));
        });
    };
    BOOST_CHECK_EXCEPTION(run(), std::domain_error, [](const auto& error) { return std::string(error.what()) == "1"; });
}

BOOST_AUTO_TEST_CASE(a_rank_that_does_not_arrive_is_named) {
    const auto run = [] {
        run_ranks_as_threads(
            3,
            [](Communicator& ranks) {
                ranks.barrier();
                if (ranks.rank() == 1) nap(600);
                ranks.barrier();
            },
            0.2);
    };
    BOOST_CHECK_EXCEPTION(run(), Error, [](const Error& error) {
        return error.code() == ExitCode::restart_me && error.failure().where == "barrier #2" &&
               error.failure().found == "rank 1 has not arrived";
    });
}

BOOST_AUTO_TEST_CASE(a_rank_that_returns_early_is_a_stall_and_no_hang) {
    const auto run = [] {
        run_ranks_as_threads(
            2,
            [](Communicator& ranks) {
                if (ranks.rank() == 0) ranks.barrier();
            },
            0.1);
    };
    BOOST_CHECK_EXCEPTION(run(), Error, [](const Error& error) { return error.code() == ExitCode::restart_me; });
}

BOOST_AUTO_TEST_CASE(divergent_ranks_are_found) {
    const auto run = [](const std::function<void(Communicator&)>& body) { run_ranks_as_threads(2, body); };
    const auto is_defect = [](const Error& error) { return error.code() == ExitCode::internal_error; };
    BOOST_CHECK_EXCEPTION(run([](Communicator& ranks) {
                              std::vector<std::int32_t> values(ranks.is_root() ? 3 : 4);
                              ranks.broadcast(std::span(values));
                          }),
                          Error, is_defect);
    BOOST_CHECK_EXCEPTION(run([](Communicator& ranks) {
                              std::vector<std::int32_t> values(3);
                              if (ranks.is_root())
                                  ranks.broadcast(std::span(values));
                              else
                                  ranks.barrier();
                          }),
                          Error, is_defect);
    BOOST_CHECK_EXCEPTION(run([](Communicator& ranks) { (void)mpi_handle(ranks); }), Error, is_defect);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(claims_of_threads)

BOOST_AUTO_TEST_CASE(every_unit_is_handed_out_and_reported_once) {
    for (const int size : {1, 2, 3, 5}) {
        Findings wrong;
        std::array<std::vector<std::int64_t>, 3> handed_out;
        std::array<std::vector<std::int64_t>, 3> reported;
        std::array<std::vector<std::int64_t>, 3> units;
        for (std::int64_t i = 0; i < 100; ++i) {
            units[0].push_back((i * 37) % 100);
            units[2].push_back(500 - i);
        }
        std::mutex mutex;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            for (std::size_t stage = 0; stage < 3; ++stage) {  // the middle one has no units
                const auto claims = make_work_claims(
                    ranks, units[stage], [&, stage](std::int64_t unit) { reported[stage].push_back(unit); });
                while (const auto unit = claims->next()) {
                    {
                        const std::scoped_lock lock(mutex);
                        handed_out[stage].push_back(*unit);
                    }
                    if (*unit % 10 == ranks.rank()) nap(1);
                    claims->finished(*unit);
                }
                wrong.expect(!claims->next().has_value(), "nothing is left");
            }
        });
        BOOST_TEST(wrong.text() == "");
        for (std::size_t stage = 0; stage < 3; ++stage) {
            if (size == 1) BOOST_TEST((handed_out[stage] == units[stage]));  // in the given order
            std::sort(units[stage].begin(), units[stage].end());
            std::sort(handed_out[stage].begin(), handed_out[stage].end());
            std::sort(reported[stage].begin(), reported[stage].end());
            BOOST_TEST((handed_out[stage] == units[stage]));
            BOOST_TEST((reported[stage] == units[stage]));
        }
    }
}

BOOST_AUTO_TEST_CASE(reports_end_with_the_claims_of_rank_0) {
    Findings wrong;
    run_ranks_as_threads(3, [&](Communicator& ranks) {
        const std::vector<std::int64_t> units{1, 2, 3, 4, 5, 6};
        std::atomic<int> reports{0};
        {
            const auto claims = make_work_claims(ranks, units, [&](std::int64_t) { ++reports; });
            while (const auto unit = claims->next()) {
                if (!ranks.is_root()) nap(20);  // rank 0 is at the end first
                claims->finished(*unit);
            }
        }
        wrong.expect(reports == (ranks.is_root() ? 6 : 0), "reports when the claims are gone");
    });
    BOOST_TEST(wrong.text() == "");
}

BOOST_AUTO_TEST_CASE(a_rank_that_never_ends_its_work_is_a_stall) {
    const auto run = [] {
        const std::vector<std::int64_t> units{1, 2};
        run_ranks_as_threads(
            2,
            [&](Communicator& ranks) {
                {
                    const auto claims = make_work_claims(ranks, units, nullptr);
                    if (!ranks.is_root()) nap(500);
                }
                ranks.barrier();
            },
            0.1);
    };
    BOOST_CHECK_EXCEPTION(run(), Error, [](const Error& error) { return error.code() == ExitCode::restart_me; });
}

BOOST_AUTO_TEST_CASE(a_rank_that_throws_between_units_ends_the_others) {
    const auto run = [] {
        const std::vector<std::int64_t> units{1, 2, 3, 4};
        run_ranks_as_threads(3, [&](Communicator& ranks) {
            const auto claims = make_work_claims(ranks, units, nullptr);
            while (const auto unit = claims->next()) {
                if (*unit == 2) throw std::domain_error("unit 2");
                claims->finished(*unit);
            }
            ranks.barrier();
        });
    };
    const double seconds = seconds_of([&] { BOOST_CHECK_THROW(run(), std::domain_error); });
    BOOST_TEST(seconds < 10.0);
}

BOOST_AUTO_TEST_SUITE_END()
