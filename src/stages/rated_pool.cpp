#include "rated_pool.hpp"

#include <algorithm>
#include <cmath>

#include "idistill/data/row_runs.hpp"

namespace idistill::stages {
namespace {

/// Calls take(place in rows, values) with the refined rows among `rows` of one dataset of the state, of `width`
/// numbers.
template <class Take>
void for_each_refined(const Run& run, const char* dataset, std::int64_t width, data::RowRange rows, Take take) {
    if (run.refinement == nullptr) return;
    const auto& refined = run.refinement->rows;
    const auto begin = std::lower_bound(refined.begin(), refined.end(), rows.first);
    const auto end = std::lower_bound(begin, refined.end(), rows.end());
    if (begin == end) return;
    std::vector<float> values(static_cast<std::size_t>((end - begin) * width));
    run.work.state.read(state::refine, dataset, {begin - refined.begin(), end - begin}, values);
    for (auto row = begin; row != end; ++row)
        take(*row - rows.first, std::span(values).subspan(static_cast<std::size_t>((row - begin) * width),
                                                          static_cast<std::size_t>(width)));
}

}  // namespace

void read_products(const Run& run, std::int64_t width, data::RowRange rows, std::span<float> out) {
    const auto stored = run.inputs.influence->layout().products();
    const auto copy = [&](std::int64_t place, std::span<const float> values) {
        std::copy_n(values.begin(), width, out.begin() + place * width);
    };
    if (width == stored) {
        run.work.state.read(state::pool, state::influence, rows, out);
    } else {
        std::vector<float> whole(static_cast<std::size_t>(rows.count * stored));
        run.work.state.read(state::pool, state::influence, rows, whole);
        for (std::int64_t row = 0; row < rows.count; ++row)
            copy(row, std::span(whole).subspan(static_cast<std::size_t>(row * stored)));
    }
    for_each_refined(run, state::influence, stored, rows, copy);
}

void read_logarithmic(const Run& run, data::RowRange rows, std::span<float> out) {
    const auto width = run.inputs.influence->layout().logarithms();
    run.work.state.read(state::pool, state::norm, rows, out);
    for_each_refined(run, state::norm, width, rows, [&](std::int64_t place, std::span<const float> values) {
        std::copy(values.begin(), values.end(), out.begin() + place * width);
    });
}

Run without_refinement(const Run& run) {
    auto before = run;
    before.refinement = nullptr;
    return before;
}

std::int64_t rows_of_block(std::int64_t width) {
    constexpr std::int64_t block_numbers = std::int64_t{8} << 20;
    return std::clamp<std::int64_t>(block_numbers / std::max<std::int64_t>(1, width), 1, 65536);
}

namespace {

/// (rows x factor_width) of any rows of the pool.
void read_factors(const Run& run, std::span<const std::int64_t> rows, std::span<float> out) {
    const auto width = static_cast<std::size_t>(factor_width(run.inputs));
    data::for_each_run(rows, [&](std::size_t place, data::RowRange range) {
        run.work.state.read(state::pool, state::factor, range,
                            out.subspan(place * width, static_cast<std::size_t>(range.count) * width));
    });
}

}  // namespace

RatedPool rated_pool(const Run& run) {
    const auto& layout = run.inputs.influence->layout();
    RatedPool pool{
        .facts = pool_facts(run.inputs, run.inputs.pool.index(), run.columns.task),
        .influence = {
            .columns = run.columns.count(),
            .products = run.columns.count() + layout.products() - layout.columns,
            .read =
                [&run](std::int64_t first, std::int64_t count, std::int64_t width, std::span<float> out) {
                    read_products(run, width, {first, count}, out);
                },
            .curvature = [&run](bool of_extras) { return run.inputs.influence->curvature(run.columns, of_extras); }},
        .read_ids = [&run](data::RowRange rows) { return run.inputs.pool.read_ids(rows); }};
    if (factor_width(run.inputs) > 0) {
        pool.similarity = run.inputs.propagation->similarity(
            [&run](std::span<const std::int64_t> rows, std::span<float> out) { read_factors(run, rows, out); });
        pool.influence.similarity = pool.similarity.get();
    }
    return pool;
}

}  // namespace idistill::stages
