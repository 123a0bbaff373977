// Samples side by side: positions, their angles, and rows by position.

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "idistill/model/packed_batch.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;

BOOST_AUTO_TEST_SUITE(model_packed_batch)

BOOST_AUTO_TEST_CASE(samples_are_packed_with_their_own_positions) {
    const TinyModel tiny(tiny_llama());
    const auto samples = random_samples(23, {5, 1, 300, 7}, 3);
    const std::vector<std::int64_t> chosen{3, 2, 0}, lengths{7, 290, 1};
    for (const bool twice : {false, true}) {
        const auto decoder = twice ? tiny.in_double() : tiny.decoder();
        const auto batch = model::pack(decoder, samples, chosen, lengths);
        BOOST_TEST((batch.offsets == std::vector<std::int64_t>{0, 7, 297, 298}));
        BOOST_TEST(batch.samples() == 3);
        BOOST_TEST(batch.rotation.cosine.scalar_type() == decoder.options().dtype().toScalarType());
        for (std::size_t i = 0; i < chosen.size(); ++i)
            for (std::int64_t p = 0; p < lengths[i]; ++p) {
                const auto row = batch.offsets[i] + p;
                const auto token =
                    samples.tokens[static_cast<std::size_t>(samples.offsets[static_cast<std::size_t>(chosen[i])] + p)];
                BOOST_REQUIRE(batch.tokens[row].item<std::int64_t>() == token);
                for (std::int64_t j = 0; j < 2; ++j) {
                    const double angle = static_cast<double>(p) * std::pow(100.0, -2.0 * static_cast<double>(j) / 4.0);
                    BOOST_REQUIRE(std::abs(batch.rotation.cosine[row][j].item<double>() - std::cos(angle)) < 3e-5);
                    BOOST_REQUIRE(std::abs(batch.rotation.sine[row][j].item<double>() - std::sin(angle)) < 3e-5);
                }
            }
    }
}

BOOST_AUTO_TEST_CASE(rows_are_taken_by_position_within_their_sample) {
    const TinyModel tiny(tiny_llama());
    const auto samples = random_samples(23, {5, 1, 4}, 3);
    const auto batch = model::pack(tiny.decoder(), samples, {0, 1, 2}, {5, 1, 4});
    const auto x = at::arange(10).unsqueeze(1);
    const auto taken = [&](const model::RowSubset& rows) {
        const auto values = model::take_rows(x, rows).view({-1}).contiguous();
        return std::vector<std::int64_t>(values.const_data_ptr<std::int64_t>(),
                                         values.const_data_ptr<std::int64_t>() + values.numel());
    };
    const auto all = model::all_rows(batch);
    BOOST_TEST(all.rows() == 10);
    BOOST_TEST((all.position == std::vector<std::int64_t>{0, 1, 2, 3, 4, 0, 0, 1, 2, 3}));
    BOOST_TEST(model::take_rows(x, all).is_same(x));
    BOOST_TEST((taken(model::last_rows(batch)) == std::vector<std::int64_t>{4, 5, 9}));
    BOOST_TEST((model::last_rows(batch).position == std::vector<std::int64_t>{4, 0, 3}));
    const auto some = model::rows_at(batch, {{0, 4}, {}, {1}});
    BOOST_TEST((some.offsets == std::vector<std::int64_t>{0, 2, 2, 3}));
    BOOST_TEST((taken(some) == std::vector<std::int64_t>{0, 4, 7}));
    const auto none = model::rows_at(batch, {{}, {}, {}});
    BOOST_TEST(none.rows() == 0);
    BOOST_TEST(taken(none).empty());
}

BOOST_AUTO_TEST_CASE(linear_rope_scaling_slows_every_position) {
    auto config = tiny_llama();
    const TinyModel plain(config);
    config.rope_scaling = model::RopeScaling{.type = "linear", .factor = 4.0};
    const TinyModel scaled(config);
    const auto positions = at::arange(50);
    const auto slow = scaled.decoder().rotation(4 * positions), fast = plain.decoder().rotation(positions);
    BOOST_TEST(relative_error(slow.cosine, fast.cosine) < 1e-6);
    BOOST_TEST(relative_error(slow.sine, fast.sine) < 1e-6);
}

BOOST_AUTO_TEST_SUITE_END()
