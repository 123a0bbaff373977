#pragma once
// Datasets of a file, declared once: the plan counts their bytes, the writer writes them.

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "idistill/io/result_file.hpp"
#include "idistill/plan/plan.hpp"

namespace idistill::io {

/// Datasets whose values come from a `Made`. `of`, a function or a member, gives a dataset's values: T in row order, or
/// texts. `rows` are those planned, of which there may be fewer; of a dataset that the ranks fill, those written.
template <class Made>
class ResultDatasets {
public:
    /// (rows x width; 0: a vector).
    template <class T, class Of>
    void numbers(const std::string& name, std::int64_t rows, Of of, std::int64_t width = 0) {
        const auto row_bytes = static_cast<double>(sizeof(T)) * static_cast<double>(width > 0 ? width : 1);
        all_.push_back(
            {{name, rows, row_bytes},
             [=](ResultWriter& writer) { writer.create<T>(name, rows, width); },
             [=](ResultWriter& writer, data::RowRange range, const Made& made) {
                 writer.write<T>(name, range, std::invoke(of, made));
             },
             [=](ResultWriter& writer, const Made& made) { writer.small<T>(name, std::invoke(of, made), width); }});
    }
    /// UTF-8, of at most so many bytes.
    template <class Of>
    void texts(const std::string& name, std::int64_t rows, std::int64_t longest, Of of) {
        all_.push_back({{name, rows, static_cast<double>(longest)},
                        [=](ResultWriter& writer) { writer.create_strings(name, rows, longest); },
                        [=](ResultWriter& writer, data::RowRange range, const Made& made) {
                            writer.write_strings(name, range.first, std::invoke(of, made));
                        },
                        [=](ResultWriter& writer, const Made& made) { writer.strings(name, std::invoke(of, made)); }});
    }

    void plan(plan::Plan& plan) const {
        for (const auto& dataset : all_) plan.result.push_back(dataset.planned);
    }
    /// Whole datasets, `made` the same on every rank. Collective.
    void write(ResultWriter& writer, const Made& made) const {
        for (const auto& dataset : all_) dataset.write(writer, made);
    }
    /// Datasets that the ranks then fill(). Collective.
    void create(ResultWriter& writer) const {
        for (const auto& dataset : all_) dataset.create(writer);
    }
    /// Rows of all of them; `made` holds these rows.
    void fill(ResultWriter& writer, data::RowRange rows, const Made& made) const {
        for (const auto& dataset : all_) dataset.fill(writer, rows, made);
    }

private:
    struct Dataset {
        plan::ResultDataset planned;
        std::function<void(ResultWriter&)> create;
        std::function<void(ResultWriter&, data::RowRange, const Made&)> fill;
        std::function<void(ResultWriter&, const Made&)> write;
    };
    std::vector<Dataset> all_;
};

/// Bytes of the longest of some texts.
inline std::int64_t longest_of(const std::vector<std::string>& texts) {
    std::size_t longest = 0;
    for (const auto& text : texts) longest = std::max(longest, text.size());
    return static_cast<std::int64_t>(longest);
}

}  // namespace idistill::io
