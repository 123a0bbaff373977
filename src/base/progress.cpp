#include "idistill/base/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace idistill {
namespace {

constexpr double redraw_seconds = 0.1;  // on a terminal
constexpr double line_seconds = 2.0;    // elsewhere: a line at most that often,
constexpr double line_percent = 5.0;    // and only after that much

std::string duration(double seconds) {
    const auto s = static_cast<std::int64_t>(std::llround(std::max(seconds, 0.0)));
    if (s < 60) return fmt::format("{} s", s);
    if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
    if (s < 86400) return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
    return fmt::format("{} d {:02} h", s / 86400, s % 86400 / 3600);
}

std::string quantity(double value) {
    if (value >= 999.5e6) return fmt::format("{:.2f}G", value * 1e-9);
    if (value >= 999.5e3) return fmt::format("{:.2f}M", value * 1e-6);
    if (value >= 9999.5) return fmt::format("{:.1f}k", value * 1e-3);
    return value < 10 ? fmt::format("{:.1f}", value) : fmt::format("{:.0f}", value);
}

double percent(const ProgressAmount& total, const ProgressAmount& recovered, const ProgressAmount& done) {
    if (total.cost <= 0.0) return 100.0;
    return std::clamp(100.0 * (recovered.cost + done.cost) / total.cost, 0.0, 100.0);
}

}  // namespace

Progress::Progress(std::string stage, ProgressAmount total, ProgressAmount recovered)
    : stage_(std::move(stage)),
      total_(total),
      recovered_(recovered),
      start_(std::chrono::steady_clock::now()),
      last_shown_(start_ - std::chrono::hours(1)),
      terminal_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() { show(true); }

void Progress::add(const ProgressAmount& done) {
    done_ += done;
    const double quiet = std::chrono::duration<double>(std::chrono::steady_clock::now() - last_shown_).count();
    const double now = percent(total_, recovered_, done_);
    const bool due = terminal_ ? quiet >= redraw_seconds
                               : now < 100.0 && quiet >= line_seconds &&
                                     (last_percent_ < 0.0 || now >= last_percent_ + line_percent);
    if (due) show(false);
}

std::string Progress::line(const std::string& stage, const ProgressAmount& total, const ProgressAmount& recovered,
                           const ProgressAmount& done, double elapsed_seconds) {
    const double share = percent(total, recovered, done);
    const bool complete = share > 100.0 - 1e-7;  // costs are sums of many rounded numbers
    std::string text = fmt::format("{:<18} {:3.0f} %", stage, complete ? 100.0 : std::floor(share));
    if (done.samples > 0 && elapsed_seconds > 0.0) {
        text +=
            fmt::format("  {} samples/s  {} tokens/s", quantity(static_cast<double>(done.samples) / elapsed_seconds),
                        quantity(static_cast<double>(done.tokens) / elapsed_seconds));
    }
    if (complete) {
        text += "  in " + duration(elapsed_seconds);
    } else if (done.cost > 0.0) {
        const double rest = total.cost - recovered.cost - done.cost;
        text += "  " + duration(elapsed_seconds * rest / done.cost) + " left";
    }
    if (recovered.cost > 0.0)
        text += fmt::format("  ({:.0f} % from the run before)", percent(total, recovered, ProgressAmount{}));
    return text;
}

void Progress::show(bool last) {
    const auto now = std::chrono::steady_clock::now();
    const std::string text =
        line(stage_, total_, recovered_, done_, std::chrono::duration<double>(now - start_).count());
    if (terminal_) {
        fmt::print(stderr, "\r{}\x1b[K{}", text, last ? "\n" : "");
    } else {
        fmt::print(stderr, "{}\n", text);
    }
    std::fflush(stderr);
    last_shown_ = now;
    last_percent_ = percent(total_, recovered_, done_);
}

}  // namespace idistill
